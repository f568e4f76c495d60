"""A local Masivo with its limits, its queue and its bad days; it judges the client and shares no code with it."""

from streammig.sandbox.config import SandboxConfig
from streammig.sandbox.script import ScriptError
from streammig.sandbox.server import Sandbox, serve

__all__ = ["Sandbox", "SandboxConfig", "ScriptError", "serve"]

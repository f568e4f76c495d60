"""A local Masivo with limits, a queue and scripted faults. It shares no code with the client that it tests."""

from streammig.sandbox.config import SandboxConfig
from streammig.sandbox.script import ScriptError
from streammig.sandbox.server import Sandbox, serve

__all__ = ["Sandbox", "SandboxConfig", "ScriptError", "serve"]

"""Whether a machine and a target are fit for a migration, and whether the target behaves as is assumed."""

from streammig.doctor.finding import NOTE, OK, WRONG, Finding
from streammig.doctor.live import check_live, examine_answers
from streammig.doctor.machine import examine_machine
from streammig.doctor.way import examine_way

__all__ = ["NOTE", "OK", "WRONG", "Finding", "check_live", "examine_answers", "examine_machine", "examine_way"]

"""Opening a TUN device or a tap is refused. The majors of taps are told to the program, as the kernel has them."""

from __future__ import annotations

from dataclasses import dataclass

from watchdog.kernel import programs, taps
from watchdog.kernel.layers.base import Target
from watchdog.kernel.layers.hooked import Hooked
from watchdog.kernel.programs import CgroupProgram, ProgramSet

NOT_TOLD = "the program does not know the taps of this kernel"


@dataclass(frozen=True)
class Devices(Hooked):
    """wd_device, and what it has to know."""

    name: str = "devices"
    programs: ProgramSet[CgroupProgram] = programs.DEVICES

    def attach(self, target: Target) -> None:
        """Tell it, then attach it where it is not."""
        if map_id := target.common.maps.get(programs.TAP_MAJORS_MAP):
            taps.refuse(map_id, taps.majors())
        super().attach(target)

    def gaps(self, target: Target) -> list[str]:
        """Hooks without it, and taps that have been loaded since."""
        map_id = target.common.maps.get(programs.TAP_MAJORS_MAP)
        told = map_id is None or taps.majors() <= taps.refused(map_id)
        return super().gaps(target) + ([] if told else [NOT_TOLD])

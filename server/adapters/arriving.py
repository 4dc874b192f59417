"""Adapters that are laid out on a device while it computes: kernels place them by `Uploads`.

A lease is given as soon as everything is on its way. The step that first uses an adapter has the
device wait for it (`ResidentAdapter.arrival`), and nobody waits on the host.
"""

from dataclasses import replace

from server.adapters.delta import MakeResident, ResidentAdapter, make_resident
from server.adapters.sources import Loaded
from server.device.uploads import Uploads
from server.kernels.interface import Kernels


def uploaded(uploads: Uploads, placing: Kernels) -> MakeResident:
    """`make_resident` by the kernels `placing`, which place what they lay out by these uploads.

    They multiply nothing: those that do lay out what they make themselves in their own stream.
    """

    def make(digest: str, loaded: Loaded, kernels: Kernels) -> ResidentAdapter:
        with uploads.use():
            resident = make_resident(digest, loaded, placing)
        return replace(resident, arrival=uploads.arrival())

    return make

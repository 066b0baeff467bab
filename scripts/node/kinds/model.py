"""The node with the language model, which dials the other one and publishes nothing."""

from scripts.node.kinds import Kind

KIND = Kind(
    name="model",
    file="compose.gpu.yml",
    mark="gateway",
    dials=True,
    called="WORKERS_LISTEN",
    checks=(
        *("scripts.doctor.model.gpu", "scripts.doctor.model.engine", "scripts.doctor.model.hop"),
        *("scripts.doctor.model.store", "scripts.doctor.model.workers"),
    ),
    panels=(
        *("scripts.status.model.work", "scripts.status.model.hop", "scripts.status.model.workers"),
    ),
    keeper="gateway",
    store="store",
    # A driver and a kernel that do not fit each other leave the machine without its GPU.
    held=(
        "linux-image", "linux-headers", "linux-modules", "nvidia", "libnvidia", "libcuda", "cuda",
        "xserver-xorg-video-nvidia", "firmware-nvidia",
    ),
)  # fmt: skip

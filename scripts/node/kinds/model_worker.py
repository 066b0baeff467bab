"""A further machine with an engine, which dials the first model node and publishes nothing."""

from scripts.node.kinds import Kind
from scripts.node.kinds.model import KIND as FIRST

KIND = Kind(
    name="worker",
    file="compose.gpu.worker.yml",
    mark="door",
    dials=True,
    checks=("scripts.doctor.model.gpu", "scripts.doctor.model.engine"),
    python="engine",
    calls_near=True,
    speaks=False,
    held=FIRST.held,
)

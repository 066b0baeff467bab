"""The node with the language model, which dials the other one and publishes nothing."""

from scripts.node.kinds import Kind

KIND = Kind(
    name="model",
    file="compose.gpu.yml",
    mark="gateway",
    dials=True,
    checks=("scripts.doctor.model.gpu", "scripts.doctor.model.engine", "scripts.doctor.model.hop"),
    panels=("scripts.status.model.work", "scripts.status.model.hop"),
)

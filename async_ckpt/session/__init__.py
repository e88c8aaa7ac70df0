"""``MonitoredTrainingSession``: steps, boundary, stop flag, lifetime."""

from async_ckpt.session.session import MonitoredTrainingSession as MonitoredTrainingSession

__all__ = ["MonitoredTrainingSession"]

"""Observers that ship: hand one to ``session.subscribe(...)``, before or after the session is entered.

Each needs the library it speaks to, and imports it when it is built:

=======================  ==================================  ====================
observer                 shows                               extra
=======================  ==================================  ====================
`LoggingObserver`        records of the standard ``logging``  none
`RichProgress`           bars in the terminal                ``cli``
`PrometheusObserver`     metrics to scrape                   ``prometheus``
`OpenTelemetryObserver`  a span per save                     ``opentelemetry``
`PerfettoTrace`          a timeline for ui.perfetto.dev      none
`TensorBoardObserver`    scalars by step                     ``tensorboard``
=======================  ==================================  ====================

They only look: what one raises is logged, the observer is removed, and no save is disturbed.
"""

from __future__ import annotations

from async_ckpt.observers.logs import LoggingObserver
from async_ckpt.observers.perfetto import PerfettoTrace
from async_ckpt.observers.progress import RichProgress
from async_ckpt.observers.prometheus import PrometheusObserver
from async_ckpt.observers.spans import OpenTelemetryObserver
from async_ckpt.observers.tensorboard import TensorBoardObserver

__all__ = [
    "LoggingObserver",
    "OpenTelemetryObserver",
    "PerfettoTrace",
    "PrometheusObserver",
    "RichProgress",
    "TensorBoardObserver",
]

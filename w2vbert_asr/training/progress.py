"""How far a run is: a bar with the time left on a terminal, plain lines elsewhere; on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

_SHOWN = ("loss", "wer", "accuracy", "lr")


class Progress:
    """Shown from step `start` of `total`; nothing unless `visible`."""

    def __init__(self, start: int, total: int, visible: bool) -> None:
        self._start, self._total, self._visible = start, total, visible
        self._began = time.monotonic()
        on_terminal = visible and sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True) if on_terminal else None

    def advance(self) -> None:
        """One more step."""
        if self._bar is not None:
            self._bar.update(1)

    def report(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Show the main metrics of a log line."""
        if not self._visible:
            return
        shown = "  ".join(f"{name} {metrics[name]:.4g}" for name in _SHOWN if name in metrics)
        if self._bar is None:
            self.say(f"step {step}/{self._total}  {split}  {shown}  left {self._left(step)}")
        elif split == "train":
            self._bar.set_postfix_str(shown)
        else:
            self.say(f"step {step}  {split}  {shown}")

    def say(self, line: str) -> None:
        """A line of its own."""
        if self._visible:
            tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    def _left(self, step: int) -> str:
        seconds = (time.monotonic() - self._began) / max(step - self._start, 1) * (self._total - step)
        return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"

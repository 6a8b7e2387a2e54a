"""Keeps the caller's terminal as it was: modes and foreground process group, whatever the program did to it."""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType


class PreservedTerminal:
    """Restores the terminal behind the first of the standard streams that is one. A no-op without any.

    To be made before the program can run: it is kept as it is now.
    """

    def __init__(self) -> None:
        self._fd = next((fd for fd in (0, 1, 2) if _is_terminal(fd)), -1)
        if self._fd >= 0:
            import termios

            self._modes = termios.tcgetattr(self._fd)
            try:
                self._foreground = os.tcgetpgrp(self._fd)
            except OSError:
                self._foreground = -1  # a terminal, but not our controlling one

    def __enter__(self) -> PreservedTerminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def restore(self) -> None:
        """Makes the terminal what it was."""
        if self._fd < 0:
            return
        import termios

        # Ours to restore even from the background, where tcsetpgrp(3) and tcsetattr(3) would stop us.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            if self._foreground > 0:
                os.tcsetpgrp(self._fd, self._foreground)
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._modes)
        except OSError:  # hung up meanwhile: nothing is left to restore
            self._fd = -1
        except termios.error:
            self._fd = -1
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False

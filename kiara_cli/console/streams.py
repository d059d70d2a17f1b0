"""stdin, stdout and stderr as every command can use them, whatever they are connected to.

In: what the process was started with. Out: three open streams; text that goes to a file or a pipe is UTF-8, and no
character can make writing fail.
"""

from __future__ import annotations

import codecs
import io
import os
import sys


def prepare() -> None:
    """Open what was closed (`>&-`) onto nothing, and write UTF-8 where there is no terminal.

    A terminal keeps its encoding, and shows a sign for what it cannot. The numbers 0 to 2 are taken first, so that no
    file that is opened later becomes stdout.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: SIM115 - open as long as the process lives
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            if stream.isatty():
                stream.reconfigure(errors="replace")
            else:
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def read_arguments_as_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale is ASCII's (LC_ALL=C with PYTHONUTF8=0).

    Python has read the command line as ASCII there, and would give file names to the system in ASCII.
    """
    is_ascii = codecs.lookup(sys.getfilesystemencoding()).name == "ascii"
    from_a_file = len(sys.orig_argv) > 1 and sys.orig_argv[1] != "-"  # not a program typed or piped in
    if is_ascii and from_a_file and sys.executable and os.name == "posix":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])

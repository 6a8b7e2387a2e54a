"""A conversation with a running program, through pipes and through a terminal of its own."""

import os

import sandlock

PROGRAM = """
import sys
total = 0
for line in sys.stdin:
    total += int(line)
    print("total", total, flush=True)
"""

with sandlock.Sandbox(presets=["python"]) as box:
    with box.start(["python3", "-c", PROGRAM], stdin=sandlock.PIPE) as process:
        for number in (1, 20, 300):
            process.stdin.write(f"{number}\n".encode())
            process.stdin.flush()
            print(process.stdout.readline().decode().strip())
        process.stdin.close()  # the program sees the end of its input and ends
        print("exit code", process.wait(timeout=10).exit_code)

    # With a pty the program has a terminal: it has a size, and the end of input is a character.
    with box.start(["sh", "-c", "stty size; cat"], pty=(30, 100)) as process:
        print(os.read(process.terminal, 100).decode().strip())
        os.write(process.terminal, b"\x04")  # Ctrl-D
        print("exit code", process.wait(timeout=10).exit_code)
    # Leaving the block ends the whole tree, whatever it still does.

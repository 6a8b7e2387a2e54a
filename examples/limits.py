"""Captured output, with a limit on time, on output and on the number of processes."""

import sandlock

with sandlock.Sandbox(presets=["system"], timeout=10, max_output="1K", max_processes=8) as box:
    # Both streams are captured; input is given as text or bytes.
    result = box.run(["sh", "-c", "tr a-z A-Z; echo careful >&2"], input="hello\n")
    print(result.stdout, result.stderr)

    # A time limit ends the whole tree. What was printed until then is kept, up to max_output.
    result = box.run(["yes"], timeout=0.2)
    print(result.timed_out, result.reason, len(result.stdout), sorted(result.truncated))
    print(result.explain())

    # The background process is part of the tree, so it does not outlive the run.
    result = box.run(["sh", "-c", "sleep 1000 & echo started"])
    print(result.stdout_text.strip(), result.ok)

    # At the ninth process fork fails with EAGAIN, as it would for a user at the end of their process limit.
    result = box.run(["sh", "-c", "for n in 1 2 3 4 5 6 7 8 9; do sleep 5 & done"])
    print(result.exit_code, result.stderr_text.strip())

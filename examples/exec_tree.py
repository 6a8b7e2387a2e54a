"""What a command really executed: the tree of programs behind a shell pipeline."""

import sandlock

PIPELINE = "ls /usr | sort -r | head -n 2; sh -c 'exit 3'"

with sandlock.Sandbox(presets=["system"], record_execs=True, timeout=20) as box:
    result = box.run(["sh", "-c", PIPELINE])
    print(result.explain())
    for record in result.execs:
        print(record.exe, record.argv, record.exit_code)

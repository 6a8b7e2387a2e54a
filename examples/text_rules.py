"""A rule about text can be walked around; the same rule at the real exec cannot.

"git push" is denied. A filter that reads the command line lets seven of these eight pass; sandlock stops all of them,
for it judges what is executed, whoever wrote it down, and however.
"""

import os
import sys
import tempfile

import sandlock

LINES = [
    "git push",
    "sh -c 'g'it' push'",
    "env LANG=C git push",
    "echo push | xargs git",
    'python3 -c \'import os; os.execlp("git", "git", "push")\'',
    "git${IFS}push",
    "a=pu b=sh; git $a$b",
    "ln -s $(command -v git) ./tool; ./tool push",
]


def text_rule(line: str) -> bool:
    """What an allowlist of command lines sees."""
    return line.startswith("git push")


with tempfile.TemporaryDirectory() as work:
    policy = sandlock.Policy(
        presets=["python", "git"],
        fs_writable=[work],
        exec_deny=["git push * # pushing is for people"],
        env={"HOME": work, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"},
    )
    with sandlock.Sandbox(policy) as box:
        for line in LINES:
            result = box.run(["bash", "-c", line], cwd=work)
            stopped = [denial for denial in result.denials if denial.kind == "exec"]
            by_text = "stopped" if text_rule(line) else "passed"
            print(f"text rule: {by_text:8} sandlock: {'stopped' if stopped else 'PASSED':8} {line}")
    print(stopped[0].reason)

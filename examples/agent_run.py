"""A whole agent in the box, and a program that answers for its user.

The agent here is a shell script without a model. It may work in its directory; it does not get to see the key; and for
what the rules leave open, `guard.py` is asked, which lies where the agent cannot write.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

AGENT = """
echo "the plan" > plan.txt
cat ~/.ssh/id_ed25519
git push origin main
git push backup main
"""
GUARD = """
import json, sys
question = json.load(sys.stdin)
allowed = question["exe"] == "/usr/bin/git" and question["argv"][1:3] == ["push", "backup"]
print(json.dumps({"verdict": "allow"} if allowed else {"verdict": "deny", "reason": "people publish"}))
"""

with tempfile.TemporaryDirectory() as home:
    work, guard, key = Path(home, "work"), Path(home, "guard.py"), Path(home, ".ssh/id_ed25519")
    work.mkdir()
    key.parent.mkdir()
    key.write_text("SECRET")
    guard.write_text(GUARD)
    ask = f"exec:{sys.executable} {guard}"
    run = ["-m", "sandlock.cli", "agent", "run", "--add", "git", "--ask", ask, "--", "sh", "-c", AGENT]
    environment = os.environ | {"HOME": home}
    done = subprocess.run([sys.executable, *run], cwd=work, env=environment, capture_output=True, text=True)
    print("in the directory:", *os.listdir(work))
    print("the key was read:", "SECRET" in done.stdout)
    print(done.stderr)

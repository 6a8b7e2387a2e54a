"""One directory to write in, everything else read-only or closed. A denial is an error the program sees."""

import os
import tempfile

import sandlock

with tempfile.TemporaryDirectory() as place:
    work, diary = os.path.join(place, "work"), os.path.join(place, "diary.txt")
    os.mkdir(work)
    with open(diary, "w") as file:
        file.write("private\n")

    with sandlock.Sandbox(presets=["system"], fs_writable=[work], cwd=work) as box:
        box.run(["sh", "-c", "mkdir out && echo done > out/report.txt"], check=True)
        with open(os.path.join(work, "out", "report.txt")) as file:
            print("written:", file.read().strip())

        # Not granted, so it cannot be read ...
        result = box.run(["cat", diary])
        print(result.stderr_text.strip())
        print(result.explain())

        # ... nor changed or replaced, though this user could.
        for command in ("echo x >> ../diary.txt", "rm ../diary.txt", "mv out/report.txt ../diary.txt"):
            print(command, "->", box.run(["sh", "-c", command]).exit_code)

    with open(diary) as file:
        print("still:", file.read().strip())

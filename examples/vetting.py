"""Ask an async function about each exec and each connection of a whole process tree, and hear what it denied."""

import trio

import sandlock

SCRIPT = """
echo one
env -i /bin/date +%Y > /dev/null && echo two
rm -f notes || echo "no rm today"
python3 -c 'import socket; socket.create_connection(("127.0.0.1", 9))' 2>&1 | tail -1
"""


async def vet(event, box):
    match event:
        case sandlock.Exec(argv=["rm", *_]):
            return sandlock.Deny("nothing is removed here")
        case sandlock.Exec():
            return sandlock.Allow()
        case sandlock.Connect(port=9):
            await trio.sleep(0.1)  # a person may think about it: nobody else waits
            return sandlock.Deny("not to the discard service")
    return None  # no opinion, which is a denial too


async def main():
    async with sandlock.AsyncSandbox(presets=["python"], policy_fn=vet) as box:
        result = await box.run(["sh", "-c", SCRIPT])
    print(result.stdout_text, end="")
    for denial in result.denials:
        print(denial.kind, denial.target.rpartition("/")[2], "->", denial.reason)


if __name__ == "__main__":
    trio.run(main)

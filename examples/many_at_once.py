"""Twenty commands at once from asyncio, in one sandbox. Under trio the same object works the same way."""

import asyncio
import time

import sandlock


async def main() -> None:
    async with sandlock.AsyncSandbox(presets=["system"], timeout=20) as box:
        started = time.monotonic()
        commands = [["sh", "-c", f"sleep 0.5; echo {number}"] for number in range(20)]
        results = await asyncio.gather(*(box.run(command) for command in commands))
        print(" ".join(result.stdout_text.strip() for result in results))
        print("at once:", time.monotonic() - started < 5)

        # Cancelling the task ends the whole tree before the exception goes on.
        started = time.monotonic()
        try:
            async with asyncio.timeout(0.2):
                await box.run(["sh", "-c", "sleep 1000 & sleep 1000"])
        except TimeoutError:
            print("cancelled:", time.monotonic() - started < 5)


asyncio.run(main())

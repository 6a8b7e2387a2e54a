"""The first confined command: it may read and execute the system, and nothing else."""

import sandlock

result = sandlock.run(["uname", "-s"], presets=["system"])
print(result.stdout_text.strip(), result.exit_code)

# A failure of the program is a value, not an exception.
result = sandlock.run(["ls", "/no/such/directory"], presets=["system"])
print(result.ok, result.exit_code, result.stderr_text.strip())

# A program that cannot be started, or a policy that makes no sense, is an exception. Nothing ran.
try:
    sandlock.run(["no-such-program"], presets=["system"])
except sandlock.ConfinementError as error:
    print(error)
try:
    sandlock.run(["true"])
except sandlock.PolicyError as error:
    print(error)

"""What Claude Code does with the hook: its own shell runs the command that the hook has made of the model's."""

import asyncio
import tempfile

from sandlock.agents.claude import ClaudeSandbox


async def main():
    def approve(question):
        print("asked:", *question["argv"], flush=True)
        return {"verdict": "allow"} if question["argv"][1] == "made" else {"verdict": "deny", "reason": "not that one"}

    async with ClaudeSandbox(["--exec-ask", "mkdir *"], approve=approve) as sandbox:
        tool_input = {"command": "echo hello; cat /etc/shadow; mkdir made; mkdir other; ls", "description": "work"}
        call = {"hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_input": tool_input}
        output = (await sandbox.pre_tool_use(call, "toolu_1", None))["hookSpecificOutput"]
        assert output["permissionDecision"] == "allow"
        with tempfile.TemporaryDirectory() as project:
            shell = await asyncio.create_subprocess_exec(
                "bash", "-c", output["updatedInput"]["command"], cwd=project, stdout=-1, stderr=-2
            )
            said, _ = await shell.communicate()
        print(said.decode())


asyncio.run(main())

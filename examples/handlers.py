"""Answer system calls yourself: a machine of another name, a file that exists in memory only, a refusal."""

import os

import sandlock


class AnotherName(sandlock.Handler):
    def handle(self, ctx):
        names = ("Linux", "sandbox", "1.0", "#1", os.uname().machine, "")
        ctx.write(ctx.args[0], b"".join(name.encode().ljust(65, b"\0") for name in names))  # struct utsname
        return sandlock.Value(0)


class NoLinks(sandlock.Handler):
    async def handle(self, ctx):
        return sandlock.Errno(1, f"no {ctx.syscall} in this workspace")


class Report(sandlock.Handler):
    """Makes a door of our own of a call that this program has no other use for."""

    def handle(self, ctx):
        return sandlock.Inject(f"asked by process {ctx.args[0]}\n".encode(), cloexec=True)


ASK = "import os; print(os.read(os.pidfd_open(os.getpid()), 99) == b'asked by process %d\\n' % os.getpid())"


def main():
    handlers = {"uname": AnotherName(), "symlinkat": NoLinks(), "symlink": NoLinks(), "pidfd_open": Report()}
    with sandlock.Sandbox(presets=["python"], fs_writable=["."], cwd=".", handlers=handlers) as box:
        print(box.run(["uname", "-sn"]).stdout_text, end="")
        print(box.run(["python3", "-c", ASK]).stdout_text, end="")
        print(box.run(["ln", "-s", "target", "link"]).explain())
    try:
        sandlock.Sandbox(presets=["system"], handlers={"execve": NoLinks()})
    except sandlock.PolicyError as error:
        print(error)


if __name__ == "__main__":
    main()

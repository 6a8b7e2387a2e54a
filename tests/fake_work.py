"""What the fake agent is for: edits, git, a wheel, a package, a compiler, a server."""

from __future__ import annotations

import os
import socket
import sys
import threading

from fake_agent import Attack, Facts, add_to, ran, text_of


def edit(facts: Facts) -> str:
    with open("file.txt", "w", encoding="utf-8") as file:
        file.write("one\ntwo\n")
    with open("file.txt.new", "w", encoding="utf-8") as file:
        file.write(text_of("file.txt").replace("two", "three"))
    os.replace("file.txt.new", "file.txt")
    return ran("sed", "-i", "s/one/1/", "file.txt") + text_of("file.txt")


def version_control(facts: Facts) -> str:
    os.makedirs("fresh")
    who = ("-c", "user.name=Agent", "-c", "user.email=agent@example.org")
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "by the agent")):
        if words[0] == "add":
            add_to("fresh/made.txt", "text\n")
        ran("git", *who, *words, cwd="fresh")
    add_to("committed.txt", "text\n")
    ran("git", "add", "committed.txt")
    ran("git", *who, "commit", "-qm", "second")
    return ran("git", "log", "--format=%s", cwd="fresh") + ran("git", "status", "--short", "committed.txt")


def install_wheel(facts: Facts) -> str:
    ran(sys.executable, "-m", "venv", "env")
    ran("env/bin/pip", "install", "-q", "--no-index", facts["wheel"])
    return ran("env/bin/python", "-c", "import hello_agent")


def install_package(facts: Facts) -> str:
    ran("npm", "install", "--silent", "--no-audit", "--no-fund", "--offline", "./hello.tgz")
    return ran("node", "-e", "require('hello-agent')")


def compile_program(facts: Facts) -> str:
    with open("answer.c", "w", encoding="utf-8") as file:
        file.write('#include <stdio.h>\nint main(void) { puts("compiled"); return 0; }\n')
    ran("gcc", "-o", "answer", "answer.c")
    return ran("./answer")


def serve(facts: Facts) -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].sendall(b"served"), daemon=True).start()
        with socket.create_connection(server.getsockname(), 10) as client:
            return client.recv(10).decode()


WORK: dict[str, Attack] = {
    "edit": edit,
    "git": version_control,
    "pip": install_wheel,
    "npm": install_package,
    "compile": compile_program,
    "serve": serve,
}

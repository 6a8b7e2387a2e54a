"""A server that may listen on one port, and a client that may connect to that port only."""

import socket

import sandlock

SERVER = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("ready", flush=True)
connection, _ = server.accept()
connection.sendall(b"hello from the other sandbox")
"""
CLIENT = """
import socket, sys
print(socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5).recv(100).decode())
"""

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]

with (
    sandlock.Sandbox(presets=["python"], net_allow_bind=[port]) as serving,
    sandlock.Sandbox(presets=["python"], net_allow=[f":{port}"]) as asking,
    serving.start(["python3", "-c", SERVER, str(port)]) as server,
):
    print(server.stdout.readline().decode().strip())
    print(asking.run(["python3", "-c", CLIENT, str(port)]).stdout_text.strip())

    # Another port, or no grant at all: the kernel refuses before a packet is sent.
    other = str(port + 1 if port < 65535 else port - 1)
    print(asking.run(["python3", "-c", CLIENT, other]).stderr_text.splitlines()[-1])
    print(serving.run(["python3", "-c", CLIENT, str(port)]).stderr_text.splitlines()[-1])

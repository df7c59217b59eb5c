"""Becomes another program with listening sockets at descriptor 3 and up, as a service manager starts it.

Usage: activate.py WHOSE [PORT] [PATH]... -- PROGRAM [ARGUMENT]...
A word of digits is a TCP port on 127.0.0.1, any other the path of a Unix socket. WHOSE is "ours" or "others": whether
LISTEN_PID is the program's own number.
"""

import os
import socket
import sys

separator = sys.argv.index("--")
whose, places, command = sys.argv[1], sys.argv[2:separator], sys.argv[separator + 1 :]
sockets = []
for place in places:
    if place.isdigit():
        listener = socket.create_server(("127.0.0.1", int(place)))
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(place)
        listener.listen()
    sockets.append(listener)
# Out of the way first: a socket may have the number that another is to get.
high = [os.dup2(listener.fileno(), 100 + at) for at, listener in enumerate(sockets)]
for at, number in enumerate(high):
    os.dup2(number, 3 + at, inheritable=True)
os.closerange(100, 100 + len(high))
os.environ["LISTEN_FDS"] = str(len(sockets))
os.environ["LISTEN_PID"] = str(os.getpid() if whose == "ours" else 1)
os.execv(command[0], command)

"""Binary upgrade: a new process takes the place of this one without a moment in which nobody listens.

What is handed over are the listening sockets: they go down to a child process, which opens its rooms and says when it is
ready. From then on new clients are the child's; the old process serves those that it has until they leave or its drain
ends. Connected clients are not handed over.

May import: config, runtime, transport and below. Begin with `successor`.
"""

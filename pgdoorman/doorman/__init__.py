"""The house itself: builds every room, opens the doors, reloads, drains. The only room that knows all others.

`house` is the life of the process, `reception` what a login may ask of the house, `console_session` the console's socket,
`operator` what an operator may ask (the `Control` that console, web and command line see), `reports` the rows it shows.

Start with `house`.
"""

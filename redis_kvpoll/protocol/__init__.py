"""The commands that are sent and the meaning of their replies. Pure: no client, no I/O, no clock.

To add a command: write its script in ``lua/``, its ScriptSpec in ``script_specs``, the decoder of its reply in
``replies``, and the function that builds it in ``room_commands``. Then add a method to both tables.
"""

"""Local copies of the table that follow its feed, and waiting for a room.

replica, shard, expiry      what is known, and when to believe news (pure)
follow                      what to ask the server, and what to do when it fails (a flow, as in trip)
view                        what both kinds of mirror have in common
threads, tasks              who takes the steps: a thread or a task for each follower
blocking, aio               the mirror and the waits of blocking code, and of asyncio
"""

-- The order of the statuses. Failed sorts lowest, but it is an end: a script decides it before it compares.

local ORDER = {Failed = 0, Bootstrapping = 1, WaitingForInput = 2, Transferring = 3, Success = 4}

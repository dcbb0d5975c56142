-- The order of the statuses. Failed sorts lowest, but is terminal: scripts handle it before they compare.

local ORDER = {Failed = 0, Bootstrapping = 1, WaitingForInput = 2, Transferring = 3, Success = 4}

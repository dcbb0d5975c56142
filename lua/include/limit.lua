-- How much a call does: it stops at a limit, so that it holds the server for a few milliseconds, however many ranks its
-- rooms have. A call that stops leaves the rest of its rooms out of the reply; the client sends those again.

local MAX_FIELDS, fields_read = 1000, 0

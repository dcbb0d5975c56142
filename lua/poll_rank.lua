-- Read the status of each room as one of its ranks sees it: its own, or Failed if any rank is Failed.
--
-- KEYS     each: room
-- ARGV     rank
-- REPLY    each: status
-- FEED     nothing
-- INCLUDE  rank_view
--
-- For a key of another type (made by hand), the error replaces the status.

local rank = ARGV[1]
local status_field, cleared_field = 'status:' .. rank, 'cleared:' .. rank
local reply = {}
for i = 1, #KEYS do
  local fields = redis.pcall('HMGET', KEYS[i], 'status', status_field, cleared_field)
  reply[i] = fields.err and fields or rank_view(fields[1], fields[2], fields[3])
end
return reply

-- Read the status of each room as one of its ranks sees it: its own, or Failed when any rank is.
--
-- KEYS   each: room
-- ARGV   rank
-- REPLY  each: status
-- FEED   nothing
--
-- A rank that has not been heard of sees that others have failed; one that has cleared sees nothing. A key of another
-- type (made by hand) puts its error in the place of its status.

local own, cleared = 'status:' .. ARGV[1], 'cleared:' .. ARGV[1]
local reply = {}
for i = 1, #KEYS do
  local there = redis.pcall('HMGET', KEYS[i], 'status', own, cleared)
  if there.err then
    reply[i] = there
  elseif there[1] == 'Failed' and not there[3] then
    reply[i] = 'Failed'
  else
    reply[i] = there[2]
  end
end
return reply

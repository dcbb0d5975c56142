-- Remove each room with its decode prefix length, and say what it was.
--
-- KEYS   each: room, prefix
-- ARGV   nothing
-- REPLY  each: status, reason
-- FEED   nothing
--
-- A key of another type (made by hand) is removed just so: clearing is how one gets rid of it.

local reply = {}
for i = 1, #KEYS, 2 do
  local was = redis.pcall('HMGET', KEYS[i], 'status', 'reason')
  redis.call('DEL', KEYS[i], KEYS[i + 1])
  reply[i], reply[i + 1] = was[1] or false, was[2] or false
end
return reply

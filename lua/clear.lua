-- Remove each room with its decode prefix length, and say what it was.
--
-- KEYS   each: room, prefix
-- ARGV   nothing
-- REPLY  each: status, reason
-- FEED   nothing

local reply = {}
for i = 1, #KEYS, 2 do
  local was = redis.call('HMGET', KEYS[i], 'status', 'reason')
  redis.call('DEL', KEYS[i], KEYS[i + 1])
  reply[i], reply[i + 1] = was[1], was[2]
end
return reply

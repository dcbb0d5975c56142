-- Read what the ranks of each room agree on, and which version of that it is.
--
-- KEYS   each: room
-- ARGV   nothing
-- REPLY  each: status, generation, version
-- FEED   nothing
--
-- A key of another type (made by hand) puts its error in the place of its status.

local reply = {}
for i = 1, #KEYS do
  local there = redis.pcall('HMGET', KEYS[i], 'status', 'generation', 'version')
  local status = there[1]
  if there.err then status = there end
  reply[i * 3 - 2], reply[i * 3 - 1], reply[i * 3] = status, there[2] or false, there[3] or false
end
return reply

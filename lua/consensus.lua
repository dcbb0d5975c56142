-- Read the consensus of each room's ranks, and its version.
--
-- KEYS     each: room
-- ARGV     nothing
-- REPLY    each: status, generation, version
-- FEED     nothing
--
-- For a key of another type (made by hand), the error replaces the status.

local reply = {}
for i = 1, #KEYS do
  local fields = redis.pcall('HMGET', KEYS[i], 'status', 'generation', 'version')
  local status = fields.err and fields or fields[1]
  reply[i * 3 - 2], reply[i * 3 - 1], reply[i * 3] = status, fields[2] or false, fields[3] or false
end
return reply

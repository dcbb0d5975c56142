-- Read all fields of each room, at one moment. Times are milliseconds.
--
-- KEYS     each: room, prefix
-- ARGV     length_field
-- REPLY    each: ttl_ms, length, fields
-- FEED     nothing
--
-- fields are name and value in turn; none when the room is absent. length_field names the caller's rank's. A key of
-- another type (made by hand) puts its error in their place.

local reply = {}
for i = 1, #KEYS, 2 do
  reply[#reply + 1] = redis.call('PTTL', KEYS[i])
  reply[#reply + 1] = redis.pcall('HGET', KEYS[i + 1], ARGV[1])
  reply[#reply + 1] = redis.pcall('HGETALL', KEYS[i])
end
return reply

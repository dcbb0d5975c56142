-- Read all fields of each room atomically. Times are milliseconds.
--
-- KEYS     each: room, prefix
-- ARGV     length_field
-- REPLY    each: ttl_ms, length, fields
-- FEED     nothing
-- INCLUDE  limit
--
-- fields alternates names and values; empty when the room is absent. length_field is that of the caller's rank. For a
-- key of another type (made by hand), the error replaces the length or the fields.

local reply = {}
for i = 1, #KEYS, 2 do
  reply[#reply + 1] = redis.call('PTTL', KEYS[i])
  reply[#reply + 1] = redis.pcall('HGET', KEYS[i + 1], ARGV[1])
  local fields = redis.pcall('HGETALL', KEYS[i])
  reply[#reply + 1] = fields
  fields_read = fields_read + #fields / 2
  if fields_read > MAX_FIELDS then break end
end
return reply

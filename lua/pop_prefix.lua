-- Remove the decode prefix length of each room, and return it.
--
-- KEYS     each: prefix
-- ARGV     length_field
-- REPLY    each: length
-- FEED     nothing
--
-- length_field is that of the caller's rank. For a key of another type (made by hand), the error replaces the length;
-- the other rooms are processed.

local reply = {}
for i = 1, #KEYS do
  reply[i] = redis.pcall('HGET', KEYS[i], ARGV[1])
  if type(reply[i]) ~= 'table' then redis.call('HDEL', KEYS[i], ARGV[1]) end
end
return reply

-- Remove the decode prefix length of each room, and return it.
--
-- KEYS     each: prefix
-- ARGV     length_field
-- REPLY    each: length
-- FEED     nothing
--
-- length_field names the caller's rank's. A key of another type (made by hand) puts its error in the place of its
-- length; the other rooms go on.

local reply = {}
for i = 1, #KEYS do
  reply[i] = redis.pcall('HGET', KEYS[i], ARGV[1])
  if type(reply[i]) ~= 'table' then redis.call('HDEL', KEYS[i], ARGV[1]) end
end
return reply

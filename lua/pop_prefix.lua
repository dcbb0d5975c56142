-- Take the decode prefix length of each room out of the table.
--
-- KEYS   each: prefix
-- ARGV   nothing
-- REPLY  each: length
-- FEED   nothing
--
-- A key of another type (made by hand) puts its error in the place of its length; the other rooms go on.

local reply = {}
for i = 1, #KEYS do
  reply[i] = redis.pcall('HGET', KEYS[i], 'length')
  if type(reply[i]) ~= 'table' then redis.call('HDEL', KEYS[i], 'length') end
end
return reply

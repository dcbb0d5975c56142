-- Take the decode prefix length of each room out of the table.
--
-- KEYS   each: prefix
-- ARGV   nothing
-- REPLY  each: length
-- FEED   nothing

local reply = {}
for i = 1, #KEYS do
  reply[i] = redis.call('HGET', KEYS[i], 'length')
  redis.call('HDEL', KEYS[i], 'length')
end
return reply

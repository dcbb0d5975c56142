-- Record the decode prefix length of each room; the room itself may still be absent. Times are milliseconds.
--
-- KEYS   each: prefix
-- ARGV   ttl_ms; each: length
-- REPLY  each: stored
-- FEED   nothing

local reply = {}
for i = 1, #KEYS do
  redis.call('HSET', KEYS[i], 'length', ARGV[i + 1])
  reply[i] = redis.call('PEXPIRE', KEYS[i], ARGV[1])
end
return reply

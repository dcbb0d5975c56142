-- Record the decode prefix length of each room; the room itself may still be absent. Times are milliseconds.
--
-- KEYS   each: prefix
-- ARGV   ttl_ms; each: length
-- REPLY  each: stored
-- FEED   nothing
--
-- A key of another type (made by hand) puts its error in the place of its stored; the other rooms go on.

local reply = {}
for i = 1, #KEYS do
  local done = redis.pcall('HSET', KEYS[i], 'length', ARGV[i + 1])
  reply[i] = type(done) == 'table' and done or redis.call('PEXPIRE', KEYS[i], ARGV[1])
end
return reply

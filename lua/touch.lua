-- Give each live room, and its decode prefix length, a full TTL again. Times are milliseconds.
-- A terminal room is left to expire: nothing but its clear is still to come.
--
-- KEYS   each: room, prefix
-- ARGV   ttl_ms
-- REPLY  each: kept
-- FEED   nothing
--
-- kept is 1 when the room is live.

local reply = {}
for i = 1, #KEYS, 2 do
  local status = redis.call('HGET', KEYS[i], 'status')
  local kept = 0
  if status and status ~= 'Success' and status ~= 'Failed' then
    redis.call('PEXPIRE', KEYS[i], ARGV[1])
    redis.call('PEXPIRE', KEYS[i + 1], ARGV[1])
    kept = 1
  end
  reply[(i + 1) / 2] = kept
end
return reply

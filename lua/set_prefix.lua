-- Record the decode prefix length of each room; the room itself may still be absent. Times are milliseconds.
--
-- KEYS     epoch; each: room, prefix
-- ARGV     ttl_ms, length_field; each: length, generation
-- REPLY    epoch; each: stored
-- FEED     nothing
--
-- With a generation the length is bound to it, and stored is 0 if the room has another. length_field is that of the
-- caller's rank. For a key of another type (made by hand), the error replaces stored; the other rooms are processed.

local reply = {redis.call('HGET', KEYS[1], 'epoch')}
for i = 1, (#KEYS - 1) / 2 do
  local room, prefix, generation = KEYS[i * 2], KEYS[i * 2 + 1], ARGV[i * 2 + 2]
  local stored, current
  if generation == '' then
    stored = redis.pcall('HSET', prefix, ARGV[2], ARGV[i * 2 + 1])
  else
    current = redis.pcall('HGET', room, 'generation')
    stored = current == generation and redis.pcall('HSET', prefix, ARGV[2], ARGV[i * 2 + 1], 'generation', generation)
    if type(current) == 'table' then stored = current end
  end
  if stored and type(stored) ~= 'table' then
    stored = redis.call('PEXPIRE', prefix, ARGV[1])
  elseif stored and type(redis.pcall('HLEN', prefix)) ~= 'table' and stored ~= current then  -- as in write_room.lua
    redis.call('HSET', prefix, ARGV[2], ARGV[i * 2 + 1])
  end
  reply[i + 1] = stored or 0
end
return reply

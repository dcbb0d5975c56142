-- Record the decode prefix length of each room; the room itself may still be absent. Times are milliseconds.
--
-- KEYS     epoch; each: room, prefix
-- ARGV     ttl_ms, length_field; each: length, generation
-- REPLY    epoch; each: stored
-- FEED     nothing
--
-- With a generation the length is bound to it, and stored is 0 if the room has another. What is bound to a generation
-- that the room has no longer goes: the next one would drop the new length with it. The key stays, as in
-- replace_room.lua. length_field is that of the caller's rank. For a key of another type (made by hand), the error
-- replaces stored; the other rooms are processed.

local reply = {redis.call('HGET', KEYS[1], 'epoch')}
for i = 1, (#KEYS - 1) / 2 do
  local room, prefix, generation = KEYS[i * 2], KEYS[i * 2 + 1], ARGV[i * 2 + 2]
  local current, former = redis.pcall('HGET', room, 'generation'), redis.pcall('HGET', prefix, 'generation')
  local stored
  if generation == '' then
    stored = redis.pcall('HSET', prefix, ARGV[2], ARGV[i * 2 + 1])
  else
    stored = current == generation and redis.pcall('HSET', prefix, ARGV[2], ARGV[i * 2 + 1], 'generation', generation)
    if type(current) == 'table' then stored = current end
  end
  if stored and type(stored) ~= 'table' then
    local left = former and former ~= current and redis.call('HGETALL', prefix) or {}
    for k = 1, #left, 2 do
      local is_new = left[k] == ARGV[2] or (left[k] == 'generation' and generation ~= '')
      if not is_new then redis.call('HDEL', prefix, left[k]) end
    end
    stored = redis.call('PEXPIRE', prefix, ARGV[1])
  elseif stored and type(redis.pcall('HLEN', prefix)) ~= 'table' and stored ~= current then  -- as in write_room.lua
    redis.call('HSET', prefix, ARGV[2], ARGV[i * 2 + 1])
  end
  reply[i + 1] = stored or 0
end
return reply

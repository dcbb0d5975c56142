-- The decode prefix length of the caller's rank, bound to a generation.
--
-- INCLUDE  caller

-- Stores it, unless the key has another type (made by hand). At maxmemory it passes, as in fail_room.lua: the room is
-- there.
local function store_length(prefix, length, generation)
  local stored = redis.pcall('HSET', prefix, length_field, length, 'generation', generation)
  if type(stored) == 'table' and type(redis.pcall('HLEN', prefix)) ~= 'table' then
    redis.call('HDEL', prefix, '')  -- where the server takes no writes at all, the call fails with its error
    stored = redis.call('HSET', prefix, length_field, length, 'generation', generation)
  end
  if type(stored) ~= 'table' then redis.call('PEXPIRE', prefix, ARGV[2]) end
end

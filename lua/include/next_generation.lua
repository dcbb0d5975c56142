-- The generations of a shard, which increase strictly, even if the clock goes back.
--
-- INCLUDE  clock, caller

local function store_generation(generation)
  redis.call('HSET', KEYS[2], 'generation', generation)
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
end

-- Returns a generation above all former ones of this shard, and above seen, the highest that the caller knows.
local function next_generation(seen)
  read_clock()
  local last = redis.call('HGET', KEYS[2], 'generation') or ''
  if last < seen then last = seen end
  local generation = now_us > last and now_us or string.format('%.0f', last + 1)
  store_generation(generation)
  return generation
end

-- The generations of a shard, which increase strictly, even if the clock goes back.
--
-- INCLUDE  clock, caller, numbers, is_above

-- Returns a generation above all former ones of this shard, and above seen, the highest that the caller knows. One that
-- is no number counts as none.
local function next_generation(seen)
  read_clock()
  local last = redis.call('HGET', KEYS[2], 'generation') or ''
  local generation = now_us
  if seen ~= '' or #last ~= #now_us or last >= now_us then  -- else, as usual, the clock is above the last
    if not is_number(last) or (is_number(seen) and is_above(seen, last)) then last = seen end
    if is_number(last) and not is_above(now_us, last) then
      last = string.format('%.0f', last + 1)
      if is_number(last) then generation = last end
    end
  end
  redis.call('HSET', KEYS[2], 'generation', generation)
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
  return generation
end

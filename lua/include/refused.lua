-- Count the writes that a call has refused, by outcome, for statistics.
--
-- INCLUDE  changes
--
-- Goes after the including script, before feed.lua. refused has how many rooms had each outcome, or is nil: a call that
-- refuses nothing comes here for nothing else. refused_room is the key of the last one, and refused_by the owner that
-- wanted to write it, if the script knows it: "last" says so, with the time. What the server does not take (a key of
-- another type, made by hand) is not counted: the call goes on. At maxmemory it takes the count after an HDEL, as in
-- fail_room.lua. The key is not declared: while a cluster moves the slot, a declared key that is not there makes every
-- call wait.

if refused then
  local refused_key = string.sub(KEYS[1], 1, -5) .. 'refused'  -- KEYS[1] ends with feed
  local NAMES = {[5] = 'skipped', [6] = 'stale', [-1] = 'busy', [-2] = 'lease', [-3] = 'world_size'}
  for outcome, count in pairs(refused) do
    if NAMES[outcome] then
      local total = redis.pcall('HINCRBY', refused_key, NAMES[outcome], string.format('%d', count))
      if type(total) == 'table' and redis.pcall('HDEL', refused_key, '') == 0 then
        total = redis.pcall('HINCRBY', refused_key, NAMES[outcome], string.format('%d', count))
      end
      if total == count then
        redis.pcall('HSETNX', refused_key, 'since', redis.call('TIME')[1])
      end
      local refused_id = string.match(refused_room or '', '%d+$') or ''
      local last = {redis.call('TIME')[1], NAMES[outcome], refused_id, refused_by}
      redis.pcall('HSET', refused_key, 'last', table.concat(last, ' '))
    end
  end
  redis.pcall('PEXPIRE', refused_key, '604800000')  -- a week
end

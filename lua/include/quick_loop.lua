-- Runs the fast path of write_ranks.lua as far as it goes.
--
-- INCLUDE  order, quick_ranks, quick_add, quick_clear, quick_write

local reply = {false, redis.call('HGET', KEYS[2], 'epoch')}
local MAX_RANKS = 500  -- of a call: the fields of limit.lua, at 4 a rank, as write_ranks.lua counts those done here
local at, number, done = 12, 1, 0  -- where the next room's arguments begin; its number; how many ranks came before

while ARGV[1] ~= '0' and at < #ARGV and done <= MAX_RANKS do
  local room, prefix, last = KEYS[number * 2 + 4], KEYS[number * 2 + 5], at + 4 + 6 * ARGV[at + 4] - 1
  local id, generation = string.sub(room, #KEYS[1] + 2), ARGV[at + 2]
  read_quick(room, at + 4, last)
  local is_usual = counts[6] and ORDER[found[1]] and found[2] == ARGV[at + 1] and not (is_clear and found[6])
    and (generation == found[3] or (generation == '' and not is_clear)) and found[5]
    and string.find(found[5], '^[1-9]%d*$') and #found[5] < 16
  local i, rank_number = is_clear and 7 or 6, 0
  for k = at + 4, is_usual and last or -1, 6 do
    local has_holder = ARGV[k + 5] == 'WaitingForInput' or ARGV[k + 5] == 'Transferring'
    is_usual = is_usual and add_quick(k, found[i], has_holder and found[i + 1])
    rank_number = rank_number + 1
    outcomes[rank_number] = outcome
    i = has_holder and i + 2 or i + 1
  end
  if not is_usual or (generation == '' and #lengths > 0) then break end
  if counts[1] - 0 < 0 or counts[2] - 0 < 0 or counts[3] - 0 < 0 or counts[4] - 0 < 0 then break end
  if is_clear then
    reply[1] = clear_quick(room, prefix, id)
  else
    reply[1] = write_quick(room, prefix, id) or reply[1]
  end
  reply[number + 2] = table.concat(outcomes, ';', 1, rank_number) .. ';'
  at, number, done = last + 1, number + 1, done + rank_number
end
if at >= #ARGV or done > MAX_RANKS then return reply end
